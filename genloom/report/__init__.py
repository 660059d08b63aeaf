"""What a person sees of a run: its report page, its model card, runs side by side. Reads nothing but the run folder."""

from genloom.report.card import write_data_card, write_model_card
from genloom.report.compare import compare_runs, format_comparison
from genloom.report.page import write_report
from genloom.report.places import check as check_card

__all__ = ["check_card", "compare_runs", "format_comparison", "write_data_card", "write_model_card", "write_report"]
