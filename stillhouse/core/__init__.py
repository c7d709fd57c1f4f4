"""The light half: parameters, artifacts, identity of runs, errors. Imports neither torch nor anything else of the library but
`kinds`."""
