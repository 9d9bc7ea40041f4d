"""What a conversion reads of a model, and so has to be as it was at every call that follows.

recorder            notes what is read while forward is traced and rules read layers; says what is watched
attribute_tokens    an attribute's value as something to compare with
names_in_code       what code reads by names that stand in it: of files, classes, modules
tensors             tensors that are not registered
paths               the way to a value, as Python writes it
"""
