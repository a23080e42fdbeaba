from taskpool.dealer.main import main

raise SystemExit(main())
