"""Making a larger or smaller network out of a trained one."""
