"""Who is in which arm of an experiment: the same answer in Python, in Spark and in any SQL, night after night.

A user's place is md5(name ':' user_id) in hex, whose first eight digits are a number in [0, 2^32). The candidate's
users are those whose place sorts before a threshold, share * 2^32 in eight hex digits. So another share moves only
the users between the two thresholds, and another name deals everybody anew. In SQL, on every engine:

    md5(concat(experiment, ':', user_id)) < threshold
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F

from jobs.schemas import ANYONE, CANDIDATE_ARM, CHAMPION_ARM

DIGITS = 8
AFTER_ALL = "g"
"""Sorts after every hex digit: the threshold of share = 1."""


def threshold_of(share: float) -> str:
    """The hex text before which the places of that share of all users sort."""
    place = round(share * 16**DIGITS)
    return AFTER_ALL if place == 16**DIGITS else f"{place:0{DIGITS}x}"


@dataclass(frozen=True, kw_only=True)
class Split:
    """How users are dealt to the arms. name: the salt. share: of the users that get the candidate, in [0, 1]."""

    name: str
    share: float

    @property
    def threshold(self) -> str:
        """Places before it are the candidate's."""
        return threshold_of(self.share)

    def is_candidate(self, user_id: str) -> bool:
        """Whether a user gets the candidate's lists."""
        text = f"{self.name}:{user_id}".encode()
        return hashlib.md5(text, usedforsecurity=False).hexdigest() < self.threshold

    def are_candidates(self, users: pa.Array) -> NDArray[np.bool_]:
        """The same of many users."""
        return np.array([self.is_candidate(user) for user in users.to_pylist()], bool)

    def arm(self, user: Column) -> Column:
        """The arm of a user in Spark; lists for users never seen are the champion's."""
        place = F.md5(F.concat(F.lit(f"{self.name}:"), user))
        candidate = (place < F.lit(self.threshold)) & (user != F.lit(ANYONE))
        return F.when(candidate, CANDIDATE_ARM).otherwise(CHAMPION_ARM)
