from gander.cli import main

raise SystemExit(main())
