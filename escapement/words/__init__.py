"""The ground floor: names, errors and value types. Imports nothing of ours and nothing heavy."""
