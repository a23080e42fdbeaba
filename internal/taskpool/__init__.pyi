from taskpool import joblib as joblib
from taskpool.executor.errors import JobCrashed as JobCrashed
from taskpool.executor.errors import JobFailed as JobFailed
from taskpool.executor.errors import JobLost as JobLost
from taskpool.executor.errors import JobTimedOut as JobTimedOut
from taskpool.executor.errors import OutOfMemory as OutOfMemory
from taskpool.executor.errors import PoolError as PoolError
from taskpool.executor.executor import Executor as Executor

__version__: str
