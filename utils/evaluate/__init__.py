"""The meter: does the mouth follow the sound, only the sound, and does it look real?"""
