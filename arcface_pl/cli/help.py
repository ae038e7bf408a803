"""The short help: common settings and examples. ``--help_all`` prints every setting."""

SUBCOMMANDS = ("fit", "validate", "test", "predict")

_COMMON = """\
  -c, --config FILE|NAME       YAML with settings that differ; may be repeated;
                               NAME: accurate, bf16, ddp, debug, digits, face,
                               fashion, fast, folder, gpu, omniglot, source
  --accelerator auto|cpu|gpu|mps
  --devices N                  number of devices; on a CPU, of processes
  --precision 32-true|bf16-mixed|16-mixed|auto
  --data.data_dir DIR          folder that holds or receives MNIST/raw/
  --data.dataset auto|mnist|fashion_mnist|kmnist|cifar10|digits
  --data ImageFolderDataModule --data.root DIR  your images, a folder per class
  --data TableDataModule --data.table FILE      your images, listed in a CSV
  --data.batch_size N          images per step and process (default: 64)
  --ckpt_path PATH|last|best|last-good
                               a checkpoint, or one of the newest run
  --default_root_dir DIR       runs go to DIR/lightning_logs (default: here)
"""

_MORE = """\
  --print_config               print all settings as YAML and exit
  --help_all                   print every setting
  --model.head.help NAME       arguments of a class; likewise --data.help, ...
  --env                        read settings from PL_TRAINER__MAX_EPOCHS, ...
  --traceback                  print Python's traceback of an error
"""

_FIT = f"""\
usage: arcface-pl fit [flags]

Train an embedding network with an angular-margin loss, keep the checkpoint
with the best validation accuracy, and evaluate it once on the test set.

Settings come from the package's base.yaml, then each --config, then flags.
Flags of Lightning's Trainer need no prefix: --max_epochs 5.

{_COMMON}\
  --allow_inexact_resume       resume although data, batch size, processes,
                               threads or precision changed
  --max_epochs N               passes over the training images (default: 10)
  --seed_everything N          seed (default: 0)
  --model.head NAME            ArcFaceHead, CosFaceHead, LinearHead, ...
  --model.head.margin X        radians for ArcFaceHead (default: 0.5)
  --model.head.scale X         factor of the cosines (default: 30)
  --model.backbone NAME        SimpleCNN, FastCNN, IResNet, TimmBackbone, ...,
                               or your own my_package.Net
  --model.backbone.embedding_dim N
  --model.optimizer NAME       any of torch.optim (default: Adam)
  --model.optimizer.lr X       peak learning rate (default: 0.003)
  --model.lr_schedule NAME     OneCycle, Cosine, Constant, or any of
                               torch.optim.lr_scheduler
  --model my_package.MyModule  your own LightningModule
  --trainer.callbacks+=NAME    add a callback; --trainer.callbacks.X sets its X
  --trainer.logger+=NAME       add a logger
{_MORE}
examples:
  arcface-pl fit -c fast
  arcface-pl fit --model.head CosFaceHead --model.head.margin 0.35
  arcface-pl fit --ckpt_path last
"""


def _evaluation(command: str, sentence: str) -> str:
    return f"""\
usage: arcface-pl {command} --ckpt_path PATH|last|best|last-good [flags]

{sentence}
Model and data settings come from the checkpoint; no config of the run is read.

{_COMMON}{_MORE}
example:
  arcface-pl {command} --ckpt_path best
"""


HELP = {
    "arcface-pl": """\
usage: arcface-pl COMMAND ...

Image embeddings with angular-margin losses (ArcFace and its family).

  fit        train, keep the best checkpoint, evaluate it on the test set
  validate   score a checkpoint on the validation split
  test       score a checkpoint on the test set
  predict    classify your own pictures, or write a CSV for the test set
  evaluate   classification, verification and retrieval scores; figures
  embed      embeddings of pictures or data, as one file
  inspect    find wrong labels, and images that two classes share
  recognize  enroll names from a few pictures, identify, compare
  export     write a model as an ONNX, torch or safetensors file
  demo       serve a web page to try a model: draw, see angles, enroll
  serve      HTTP for programs: embed, predict, identify, verify

'arcface-pl COMMAND --help' prints its flags, 'arcface-pl --version' the
version, 'arcface-pl --print_shtab bash' (or zsh) a script that completes
commands and flags; the last needs the extra 'completion'.
""",
    "fit": _FIT,
    "validate": _evaluation("validate", "Score a checkpoint on the validation split."),
    "test": _evaluation("test", "Score a checkpoint on the test set."),
    "predict": f"""\
usage: arcface-pl predict MODEL IMAGE... [flags]    (your own pictures)
or     {_evaluation("predict", "Write label, predicted class, cosine and angle of each test image as CSV.")[7:]}
'arcface-pl predict best x --help' prints the flags for your own pictures.
""",
}
