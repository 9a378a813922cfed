"""hcompile: hybrid attention as an engineering decision."""
