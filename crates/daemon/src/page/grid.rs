//! An engine's workspaces as a field of cells, in which one that is dead is seen among thousands that are well.
//!
//! A cell has its place by the natural order of the ids, so nothing moves when a verdict changes. Workspaces that are well are one faint
//! pattern, whatever their number. Only the others are drawn one by one, larger and with another shape. Where there are more workspaces
//! than cells, a cell stands for several and shows the most urgent of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use maud::{Markup, html};

use super::link::Links;
use super::parts::{count, number};
use crate::told::groups::Group;
use crate::told::picture::{FleetPicture, Word};

/// The side of a cell.
const CELL: usize = 10;

/// How many cells may be links. A reader with a keyboard passes through each of them.
const LINKS_MAX: usize = 60;

/// How a field is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    columns: usize,
    /// How many workspaces a cell stands for.
    each: usize,
    /// Which rules of the style sheet say how large a disc is.
    size: &'static str,
}

impl Layout {
    /// The layout for all engines on one page. A cell stands for the same number of workspaces in each, so that their sizes can be
    /// compared.
    pub(super) fn of_all(groups: &[Group]) -> Self {
        let (columns, cells_max) = match groups.len() {
            0..=2 => (64, 2_560),
            3..=12 => (40, 1_200),
            _ => (24, 240),
        };
        let largest = groups.iter().map(|group| group.rows.len()).max().unwrap_or(0);
        Self { columns, each: largest.div_ceil(cells_max).max(1), size: if columns == 64 { "roomy" } else { "tight" } }
    }

    /// The layout for a page about one engine.
    pub(super) fn of_one(group: &Group) -> Self {
        Self { columns: 80, each: group.rows.len().div_ceil(4_000).max(1), size: "single" }
    }

    /// How many workspaces a cell stands for.
    pub(super) const fn each(self) -> usize {
        self.each
    }
}

/// A field of cells. With links, those in trouble lead to their workspaces.
pub(super) fn field(group: &Group, picture: &FleetPicture, layout: Layout, links: Option<&Links>) -> Markup {
    let cells = cells(group, picture, layout.each);
    let rows = cells.len().div_ceil(layout.columns);
    let (width, height) = (layout.columns * CELL, rows * CELL);
    let mut by_word: BTreeMap<Word, Vec<usize>> = BTreeMap::new();
    for (cell, (word, _)) in cells.iter().enumerate().filter(|(_, (word, _))| *word != Word::ALIVE) {
        by_word.entry(*word).or_default().push(cell);
    }
    let at = |cell: &usize| ((cell % layout.columns) * CELL, (cell / layout.columns) * CELL);
    let path = |cells: &[usize], shape: &str, dx: usize, dy: usize| {
        let mut path = String::new();
        for (x, y) in cells.iter().map(at) {
            // Writing to a String cannot fail.
            let _ = write!(path, "M{} {}{shape}", x + dx, y + dy);
        }
        path
    };
    let linked = cells.iter().enumerate().filter(|(_, (word, _))| word.urgency() > 0).take(LINKS_MAX);
    html! {
        svg.field.(layout.size) viewBox={ "0 0 " (width) " " (height) } aria-hidden=[links.is_none().then_some("true")]
            aria-label=[links.map(|_| said(group))] role=[links.map(|_| "group")] {
            path fill="url(#calm)" d=(outline(cells.len(), layout.columns)) {}
            @for (word, cells) in &by_word {
                @match word.urgency() {
                    0..=2 => path.tint.(word.slug()) d=(path(cells, "h8v8h-8z", 1, 1)) {},
                    3..=6 => {
                        path.ring d=(path(cells, "l9 9-9 9-9-9z", 5, 0)) transform="translate(0 -4)" {}
                        path.doubt d=(path(cells, "l7 7-7 7-7-7z", 5, 0)) transform="translate(0 -2)" {}
                    }
                    _ => {
                        path.ring.disc d=(path(cells, "h0", 5, 5)) {}
                        path.bad.disc d=(path(cells, "h0", 5, 5)) {}
                        @if layout.size == "tight" { path.cross d=(path(cells, "l8 8m0-8l-8 8", 1, 1)) {} }
                        @else { path.cross d=(path(cells, "l4 4m0-4l-4 4", 3, 3)) {} }
                    }
                }
            }
            @if let Some(links) = links {
                @for (cell, (word, place)) in linked {
                    @if let Some(seen) = picture.at_place(*place) {
                        @let (x, y) = at(&cell);
                        a href=(links.workspace(seen.entry.id.as_str())) aria-label={ (super::parts::cut(seen.entry.id.as_str(), 80)) ", " (word.label()) } {
                            title { (super::parts::cut(seen.entry.id.as_str(), 80)) ": " (word.label()) }
                            rect.hit x=(x) y=(y) width=(CELL) height=(CELL) rx="5" {}
                        }
                    }
                }
            }
        }
    }
}

/// The counts of an engine in a sentence, for readers who cannot see the field.
pub(super) fn said(group: &Group) -> String {
    let parts: Vec<String> =
        group.counts.present().iter().map(|(word, count)| format!("{} {}", number(*count), word.label())).collect();
    let total = count(group.counts.total(), "workspace", "workspaces");
    if parts.is_empty() { total } else { format!("{total}: {}", parts.join(", ")) }
}

/// The most urgent word of each cell, and the place of a workspace that has it.
fn cells(group: &Group, picture: &FleetPicture, each: usize) -> Vec<(Word, u32)> {
    let urgent = |places: &[u32]| {
        let most = places.iter().copied().max_by_key(|place| {
            let word = picture.word_at(*place);
            (word.urgency(), word != Word::ALIVE)
        });
        most.map(|place| (picture.word_at(place), place))
    };
    group.rows.chunks(each).filter_map(urgent).collect()
}

/// The outline around this many cells, which fill row after row.
fn outline(cells: usize, columns: usize) -> String {
    let (width, full, rest) = (columns * CELL, cells / columns * CELL, cells % columns * CELL);
    let whole = if full > 0 { format!("M0 0h{width}v{full}h-{width}z") } else { String::new() };
    let part = if rest > 0 { format!("M0 {full}h{rest}v{CELL}h-{rest}z") } else { String::new() };
    whole + &part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outline_holds_whole_rows_and_what_is_left() {
        assert_eq!(outline(25, 10), "M0 0h100v20h-100zM0 20h50v10h-50z");
        assert_eq!((outline(0, 10), outline(3, 10)), (String::new(), "M0 0h30v10h-30z".to_owned()));
    }
}
