"""Is a teacher's answer right? Final answers are found and compared; code is judged by its tests, in a sandbox."""
