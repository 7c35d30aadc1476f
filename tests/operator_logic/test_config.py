"""The operator's own settings."""

import pytest

from kvarn_operator.config import Config


def test_the_environment_decides() -> None:
    config = Config.from_environment({"KVARN_POLL_SECONDS": "2.5", "HF_ENDPOINT": "https://hub"})

    assert (config.poll_seconds, config.hub_endpoint) == (2.5, "https://hub")


def test_an_empty_environment_is_enough() -> None:
    assert Config.from_environment({}) == Config()


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "15.1", "99999"])
def test_a_poll_that_is_no_time_is_refused_with_the_remedy(value: str) -> None:
    with pytest.raises(ValueError, match=r"give 0\.1 to 15\."):
        Config.from_environment({"KVARN_POLL_SECONDS": value})
