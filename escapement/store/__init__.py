"""The span store: the directory that holds traces. Knows spans as rows; knows no SDK and no session."""
