"""The short help: what people use, with examples. ``--help_all`` prints every setting."""

__all__ = ["HELP", "SUBCOMMANDS"]

SUBCOMMANDS = ("fit", "validate", "test", "predict")

_COMMON = """\
Settings come from the package's complete base config, then each --config in turn, then flags; the later one wins.
  -c, --config FILE             a YAML file with differences only (scripts/configs/ holds some)
  --accelerator auto|cpu|gpu|mps
  --devices N                   number of devices; with --strategy ddp, number of processes
  --precision 32-true|bf16-mixed|16-mixed|auto
  --data.data_dir DIR           where MNIST/raw/ lies or is downloaded to (default: data)
  --data.dataset auto|mnist|fashion_mnist|kmnist|cifar10|digits
  --data ImageFolderDataModule --data.root DIR   your own images: a folder for each class
  --data.batch_size N           images a step and process (default: 64)
  --ckpt_path PATH|last|best|last-good   a checkpoint, or one of the newest run; last-good: its newest whole one
  --default_root_dir DIR        runs go to DIR/lightning_logs (default: here)
"""

_MORE = """\
  --print_config                print the settings as YAML and stop
  --help_all                    every setting, and every flag of Lightning's Trainer (each also works bare)
  --traceback                   show Python's traceback with an error
"""

_FIT = f"""\
usage: arcface-pl fit [flags]        (python scripts/fit.py [flags] is the same)

Train an embedding network with an angular-margin loss, keep the best checkpoint by validation accuracy,
and evaluate it once on the test set.

{_COMMON}\
  --allow_inexact_resume        go on though data, batches, processes, threads, precision or compiling changed
  --max_epochs N                passes over the training images (default: 10)
  --seed_everything N           seed of weights, order, augmentation and dropout (default: 0)
  --model.head NAME             ArcFaceHead, CosFaceHead, LinearHead, ...
  --model.head.margin X         margin; radians for ArcFaceHead (default: 0.5)
  --model.head.scale X          scale of the cosines (default: 30)
  --model.backbone NAME         SimpleCNN, FastCNN, SmallResNet, TorchvisionBackbone
  --model.backbone.name NAME    of TorchvisionBackbone: resnet18, vit_b_16, ... (--model.backbone.weights DEFAULT)
  --model.backbone.embedding_dim N
  --model.optimizer.lr X        peak learning rate
  --model.compile default|reduce-overhead   compile the training steps; the latter with CUDA graphs (default: null)
  --model.matmul_precision highest|high|medium   of float32 while training; high allows TF32 (default: null)
  --data.augment true|false     random rotation, shift and scale
{_MORE}
examples:
  python scripts/fit.py
  python scripts/fit.py --accelerator gpu --precision bf16-mixed
  python scripts/fit.py --config scripts/configs/fast.yaml
  python scripts/fit.py --config scripts/configs/accurate.yaml
  python scripts/fit.py --config scripts/configs/fashion.yaml --max_epochs 5
  python scripts/fit.py --model.head CosFaceHead --model.head.margin 0.35
  python scripts/fit.py --accelerator cpu --devices 2 --strategy ddp
  python scripts/fit.py --ckpt_path last
"""


def _evaluation(command: str, sentence: str) -> str:
    return f"""\
usage: arcface-pl {command} --ckpt_path PATH|last|best|last-good [flags]

{sentence}
The model and the data's settings are the checkpoint's own; no config of the run is read.

{_COMMON}{_MORE}
example:
  arcface-pl {command} --ckpt_path best
"""


HELP = {
    "arcface-pl": """\
usage: arcface-pl COMMAND ...

Image embeddings with angular-margin losses (ArcFace and its family).

  fit        train, keep the best checkpoint, evaluate it once on the test set
  validate   score a checkpoint on the validation split
  test       score a checkpoint on the test set
  predict    say the class of your own pictures, or write that of every test image to predictions.csv
  evaluate   score a checkpoint: classification, verification of unseen classes, retrieval; draw figures
  recognize  enrol names from a few pictures, identify and compare pictures
  export     write a trained model as one ONNX, torch or safetensors file, and check it
  demo       serve a page to try a trained model: draw, see every angle, enrol new classes

'arcface-pl COMMAND --help' says more.
""",
    "fit": _FIT,
    "validate": _evaluation("validate", "Score a checkpoint on the validation split."),
    "test": _evaluation("test", "Score a checkpoint on the test set."),
    "predict": f"""\
usage: arcface-pl predict CKPT IMAGE... [flags]        (your own pictures; 'arcface-pl predict best x --help' says more)
or     {_evaluation("predict", "Write label, predicted class, cosine and angle of every test image to a CSV.")[7:]}""",
}
