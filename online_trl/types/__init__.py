"""The records that flow between the stations of the loop.

Every record is frozen: a station that wants to say something new makes a new record. Records know nothing about SQL,
HTTP or torch, so that a feedback service can be started without any of the training stack.
"""

from .base import Estimate as Estimate
from .base import InvalidRecordError as InvalidRecordError
from .base import Message as Message
from .base import new_id as new_id
from .base import utcnow as utcnow
from .decisions import CanaryAction as CanaryAction
from .decisions import CanaryDecision as CanaryDecision
from .decisions import CanaryFeedback as CanaryFeedback
from .decisions import GateCheck as GateCheck
from .decisions import GateDecision as GateDecision
from .decisions import Judgements as Judgements
from .decisions import PolicyDecision as PolicyDecision
from .decisions import VersionFeedback as VersionFeedback
from .evaluations import AccuracyPoint as AccuracyPoint
from .evaluations import PolicyEvaluation as PolicyEvaluation
from .evaluations import RewardRefresh as RewardRefresh
from .evaluations import Sample as Sample
from .evaluations import SampledAnswer as SampledAnswer
from .evaluations import SatisfactionReport as SatisfactionReport
from .evaluations import VersionEvaluation as VersionEvaluation
from .log import ANONYMOUS as ANONYMOUS
from .log import CANCELLED as CANCELLED
from .log import COMPARISON as COMPARISON
from .log import ComparisonValue as ComparisonValue
from .log import ErasedSubject as ErasedSubject
from .log import Feedback as Feedback
from .log import FeedbackKind as FeedbackKind
from .log import FeedbackSource as FeedbackSource
from .log import Interaction as Interaction
from .log import Purpose as Purpose
from .log import QuarantineReason as QuarantineReason
from .log import Scope as Scope
from .log import Tombstone as Tombstone
from .statements import PreferencePair as PreferencePair
from .statements import Provenance as Provenance
from .statements import Ranking as Ranking
from .statements import Statement as Statement
from .statements import UnpairedLabel as UnpairedLabel
from .versions import Canary as Canary
from .versions import CanaryOutcome as CanaryOutcome
from .versions import EvaluationRecord as EvaluationRecord
from .versions import ModelRole as ModelRole
from .versions import ModelVersion as ModelVersion
from .versions import Promotion as Promotion
from .versions import VersionStatus as VersionStatus
