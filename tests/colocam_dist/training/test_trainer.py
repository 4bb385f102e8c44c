"""What the trainer says of a validation; training itself is in tests/launchers and tests/golden."""

from __future__ import annotations

import logging
from unittest import mock

import pytest

from colocam_dist.training.trainer import Trainer


@pytest.mark.parametrize(("epoch", "threshold", "warned"), [(1, 0.0, True), (0, 0.0, False), (1, 0.004, False)])
def test_a_threshold_of_which_every_box_is_the_frame_is_warned_of_once_trained(
    epoch: int, threshold: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = mock.MagicMock(_due=epoch, best={"best-localization": 100.0}, step=3)
    trainer.stage.criteria = {"best-localization": "corloc"}
    trainer.stage.validate.return_value = {"corloc": 12.0, "threshold": threshold}
    with caplog.at_level(logging.INFO):
        Trainer._validate(trainer)
    assert ("nothing is localized" in caplog.text) == warned
    assert "corloc 12" in caplog.text
    assert trainer._due is None
