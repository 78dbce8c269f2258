"""SyNCRec: cross-domain sequential recommendation that measures, per domain, what the other domains gave or took.

Pure torch and numpy. Start at model.py, which names the files in the order of the paper.
"""

from .architectures import build_model
from .blend_fit import cross_fitted_ranks, fit_blend
from .config import ModelConfig, TrainingConfig
from .data import SequenceSet
from .distributed import process_group
from .evaluation import CaseRanks, popularity_ranks, rank_cases
from .gate_use import gate_use
from .machine import choose_device
from .measures import bootstrap_interval, metrics, paired_difference, summarise
from .model import Losses, SyNCRec
from .recommend import PlainRecommendations, Recommender, TopN
from .reports import EpochReport
from .saving import load_model, save_model, warm_start
from .study_columns import StudyError
from .study_cut import read_study
from .study_data import StudyData
from .study_ranks import StudyCases, rank_scores
from .study_result import StudyResult
from .study_run import study
from .training import FitResult, TrainingRun, fit
from .views import ViewChoice, choose_views, judge_views
from .vocabulary import Vocabulary

__all__ = [
    "CaseRanks",
    "EpochReport",
    "FitResult",
    "Losses",
    "ModelConfig",
    "PlainRecommendations",
    "Recommender",
    "SequenceSet",
    "StudyCases",
    "StudyData",
    "StudyError",
    "StudyResult",
    "SyNCRec",
    "TopN",
    "TrainingConfig",
    "TrainingRun",
    "ViewChoice",
    "Vocabulary",
    "bootstrap_interval",
    "build_model",
    "choose_device",
    "choose_views",
    "cross_fitted_ranks",
    "fit",
    "fit_blend",
    "gate_use",
    "judge_views",
    "load_model",
    "metrics",
    "paired_difference",
    "popularity_ranks",
    "process_group",
    "rank_cases",
    "rank_scores",
    "read_study",
    "save_model",
    "study",
    "summarise",
    "warm_start",
]
