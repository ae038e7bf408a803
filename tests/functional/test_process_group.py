"""A group of processes in copies and pickles; its collective calls are tested with the sharded heads."""

import copy
import pickle

import pytest

from arcface_pl.functional.process_group import Group


def test_a_process_alone_is_restored_as_such() -> None:
    group = pickle.loads(pickle.dumps(Group()))
    assert (group.size, group.rank, group.group) == (1, 0, None)


def test_a_pickle_of_another_number_of_processes_is_refused() -> None:
    group = Group()
    group.size, group.rank = 3, 2
    saved = pickle.dumps(group)
    with pytest.raises(ValueError, match="sharded head: got 'process 2 of 3'; expected process 0 of 1, as here"):
        pickle.loads(saved)


def test_a_chosen_group_can_be_copied_but_not_pickled() -> None:
    group = Group()
    group.group = object()
    assert copy.deepcopy(group) is group
    with pytest.raises(ValueError, match="^group: got .*; expected the default group, None, for a pickle"):
        pickle.dumps(group)
