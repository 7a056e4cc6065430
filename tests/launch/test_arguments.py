# SPDX-License-Identifier: Apache-2.0
"""What a user may type, value by value."""

import re

import pytest

from data_pipeline.errors import UsageError
from launch.arguments import NAME, ZONE, bucket_of, location, matching, overrides, recipe
from tests.launch.test_refusals import BAD_OVERRIDES, BAD_PLACES

BAD_NAMES = ("a; touch x", "$(id)", "a\nb", "../../x", "-oProxyCommand=x", "a" * 300, "Bert", "")


@pytest.mark.parametrize("pattern", [NAME, ZONE])
@pytest.mark.parametrize("value", BAD_NAMES)
def test_names_that_a_shell_or_gcloud_could_misread(value: str, pattern: re.Pattern[str]) -> None:
    with pytest.raises(UsageError, match="--name"):
        matching("name", value, pattern, "bert")


@pytest.mark.parametrize("value", BAD_PLACES)
def test_places_that_no_host_could_use(value: str) -> None:
    with pytest.raises(UsageError, match="--workdir"):
        location("workdir", value)


@pytest.mark.parametrize(
    ("value", "bucket"),
    [("gs://my-bucket/runs/a b", "my-bucket"), ("gs://b.c_d/it's", "b.c_d"), ("/mnt/nfs/run", "")],
)
def test_places_that_all_hosts_can_use(value: str, bucket: str) -> None:
    assert location("workdir", value + "/") == value
    assert bucket_of(value) == bucket


@pytest.mark.parametrize("value", BAD_OVERRIDES)
def test_only_keys_of_the_recipe_follow_the_dashes(value: str) -> None:
    with pytest.raises(UsageError, match="unexpected argument"):
        overrides([value])


def test_values_of_keys_may_be_anything_printable() -> None:
    assert overrides(["--config.a.b=$(x) 'y\""]) == ("--config.a.b=$(x) 'y\"",)


def test_recipes_are_files_of_the_checkout() -> None:
    assert recipe("configs/pretrain.py:base") == "configs/pretrain.py:base"
