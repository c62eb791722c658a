import pytest
import torch

from causvid_cli import device


@pytest.mark.parametrize(
    ("count", "is_small", "name", "variable", "chosen"),
    [
        (None, True, "cpu", None, 1),
        (None, True, "cpu", "", 1),
        (None, False, "cpu", None, None),
        (None, True, "cuda", None, None),
        (None, True, "cpu", "3", None),
        (4, True, "cpu", "3", 4),
        (4, False, "cpu", None, 4),
        (4, True, "cuda", None, 4),
    ],
)
def test_a_small_model_takes_one_thread_unless_something_else_is_said(
    count, is_small, name, variable, chosen, monkeypatch
):
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    device.use_threads(count, is_small=is_small, device=torch.device(name))
    assert told == ([] if chosen is None else [chosen])
