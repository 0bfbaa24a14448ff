"""Corpora: one reader per source, one result."""

from hilat.corpora.folder import Corpus, read_code_book, read_corpus, write_corpus

__all__ = ["Corpus", "read_code_book", "read_corpus", "write_corpus"]
