"""The store of soft labels, as docs/soft-labels.md describes it. For users too: `SoftLabels` reads one, `SoftLabelsWriter`
writes one."""
