"""What every test starts from, and what is said at the end."""

import pytest
import torch

# One thread, so that the bits of a result do not depend on the number of cores.
torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List which oracle cases were reproduced, which were not, and which are not known."""
    for outcome, said in (("passed", "reproduced"), ("failed", "FAILED"), ("skipped", "unknown")):
        reports = terminalreporter.getreports(outcome)
        names = [dict(report.user_properties).get("oracle case") for report in reports]
        if ids := [str(name) for name in names if name]:
            terminalreporter.write_line(f"oracle cases {said} ({len(ids)}): {', '.join(ids)}")
