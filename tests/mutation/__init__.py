"""Measures the unit tests: is each decision of the code held by a test? `make mutants`, outside CI.

A mutant is the code with one small change of meaning (`<` for `<=`, a condition that is always true, an element of a
tuple gone). The tests of its room are run against it; one that none of them notices is a hole in the tests.
"""
