//! Places in the file: line numbers of offsets, and spans of joined lines back into the text.
//!
//! It knows nothing of instructions.

use crate::ast::{Lines, Span};
use std::borrow::Cow;

/// The text and its line starts.
#[derive(Debug)]
pub(crate) struct Source<'t> {
    pub(crate) text: &'t str,
    line_starts: Vec<u32>,
}

impl<'t> Source<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let mut line_starts = vec![0];
        line_starts.extend(
            text.bytes()
                .enumerate()
                .filter(|(_, byte)| *byte == b'\n')
                .map(|(at, _)| offset(at + 1)),
        );
        Self { text, line_starts }
    }

    /// One-based line that holds the byte at `at`.
    pub(crate) fn line_at(&self, at: usize) -> u32 {
        offset(
            self.line_starts
                .partition_point(|start| *start as usize <= at),
        )
    }

    /// Lines of the bytes `start..end`; an end just after a newline belongs to the line it ends.
    pub(crate) fn lines(&self, start: usize, end: usize) -> Lines {
        Lines {
            start: self.line_at(start),
            end: self.line_at(end.saturating_sub(1).max(start)),
        }
    }

    /// Text of each line without its newline, with its offset.
    pub(crate) fn raw_lines(&self) -> impl Iterator<Item = (usize, &'t str)> {
        let text = self.text;
        self.line_starts
            .iter()
            .enumerate()
            .map(move |(index, start)| {
                let start = *start as usize;
                let end = self
                    .line_starts
                    .get(index + 1)
                    .map_or(text.len(), |next| *next as usize - 1);
                (start, &text[start..end])
            })
    }
}

/// An offset as stored in spans; texts longer than `u32::MAX` are refused before any is made.
pub(crate) fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Where a part of the joined text comes from.
#[derive(Clone, Copy, Debug)]
struct Piece {
    joined: usize,
    source: usize,
}

/// The text of an instruction with its continuations joined.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined<'t> {
    pub(crate) text: Cow<'t, str>,
    pieces: Vec<Piece>,
}

impl<'t> Joined<'t> {
    /// Adds a part that stands at `source` in the file.
    pub(crate) fn push(&mut self, part: &'t str, source: usize) {
        if part.is_empty() && !self.pieces.is_empty() {
            return;
        }
        if self.text.is_empty() {
            self.pieces.clear();
        }
        self.pieces.push(Piece {
            joined: self.text.len(),
            source,
        });
        if self.text.is_empty() {
            self.text = Cow::Borrowed(part);
        } else {
            self.text.to_mut().push_str(part);
        }
    }

    /// The span in the file of `start..end` of the joined text.
    pub(crate) fn span(&self, start: usize, end: usize) -> Span {
        let first = self.to_source(start, false);
        if start >= end {
            return Span {
                start: offset(first),
                end: offset(first),
            };
        }
        Span {
            start: offset(first),
            end: offset(self.to_source(end, true)),
        }
    }

    /// A place between two pieces is the end of the first (`as_end`) or the start of the second.
    fn to_source(&self, at: usize, as_end: bool) -> usize {
        let after = self
            .pieces
            .partition_point(|piece| piece.joined < at || (piece.joined == at && !as_end));
        self.pieces
            .get(after.saturating_sub(1))
            .map_or(0, |piece| piece.source + at.saturating_sub(piece.joined))
    }
}
