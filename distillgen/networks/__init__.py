"""Networks: students that write no text. A body with heads, and how one prediction is read from them."""
