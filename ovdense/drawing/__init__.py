"""Pictures for people: results on their image, heat maps, sheets. Images are (H, W, 3) uint8 RGB."""
from ovdense.drawing.colours import class_colour, class_colours, legible_on
from ovdense.drawing.heat import draw_heat, heat_sheet
from ovdense.drawing.overlay import draw_label_map, draw_results
from ovdense.drawing.sheets import contact_sheet, named_rows, side_by_side, titled

__all__ = ["class_colour", "class_colours", "contact_sheet", "draw_heat", "draw_label_map", "draw_results", "heat_sheet", "legible_on", "named_rows",
           "side_by_side", "titled"]  # fmt: skip
