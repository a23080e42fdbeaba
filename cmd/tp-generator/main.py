import sys

from taskpool.generator.main import main

sys.exit(main())
