import pathlib
import tempfile
import unittest

from notes.book import Book


class BookTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name) / "notes.json"

    def test_is_empty_at_first(self):
        self.assertEqual(Book(self.path).all(), [])

    def test_keeps_notes_in_order(self):
        self.assertEqual(Book(self.path).add(" one "), 1)
        self.assertEqual(Book(self.path).add("zwei äöü"), 2)
        self.assertEqual(Book(self.path).all(), ["one", "zwei äöü"])

    def test_refuses_an_empty_note(self):
        with self.assertRaises(ValueError):
            Book(self.path).add("  \n")
        self.assertFalse(self.path.exists())


if __name__ == "__main__":
    unittest.main()
