"""A student as one .gguf file, which llama.cpp and what is built on it run."""
