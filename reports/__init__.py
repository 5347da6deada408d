"""From stored rows to curves, statistics, figures, tables and pages: no torch, no model."""
