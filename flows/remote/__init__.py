"""Stages on hosts that do not see the workspace: order and receipt, and what a DVC remote holds. No Prefect."""
