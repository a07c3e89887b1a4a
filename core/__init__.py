"""Words both sides share: parameters, messages, seeds, metrics, config and the run directory."""
