"""Why a run with another setting would not continue bit for bit: each reason is for a fact that is compared."""

from collections.abc import Callable
from typing import Any

from arcface_pl.callbacks.run import exact_resume


def test_every_reason_belongs_to_a_fact(make_trainer: Callable[..., Any], tiny_module: Callable[..., Any]) -> None:
    facts = exact_resume.ExactResume().facts(make_trainer(), tiny_module())
    assert exact_resume._LOST.keys() <= facts.keys()
