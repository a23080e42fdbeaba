import sys

from taskpool.worker.main import main

sys.exit(main())
