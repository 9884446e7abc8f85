"""How values become rows: types, units, categories and ranges, checked and cleaned as the catalogue declares."""
