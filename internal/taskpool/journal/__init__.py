"""Where accepted jobs and their outcomes are kept. Only this folder knows how."""
