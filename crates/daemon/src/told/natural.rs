//! The order in which workspaces and engines are shown: numbers in names are compared as numbers.
//!
//! A fleet of 100,000 is compared two million times before it is in order, and ids are often long, alike at their beginning, and full of
//! numbers (UUIDs). So a fleet is sorted by keys that are made once for each id, and that compare as plain bytes.

use std::cmp::Ordering;

/// Sorts as people do, `w2` before `w10`. Names that differ only in leading zeros are sorted as texts.
pub(crate) fn natural(left: &str, right: &str) -> Ordering {
    let (a, b) = (left.as_bytes(), right.as_bytes());
    // The beginning that both share decides nothing, so it is skipped, but for two things: the digits of a number within which the names
    // begin to differ, and otherwise the last shared byte, which shows whether a text goes on.
    let common = alike(a, b);
    let digits = a[..common].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let begin = common - if digits == 0 { common.min(1) } else { digits };
    let (mut a, mut b) = (&a[begin..], &b[begin..]);
    loop {
        let (first, second) = (run(a), run(b));
        if first.is_empty() || second.is_empty() {
            return first.len().cmp(&second.len()).then_with(|| left.cmp(right));
        }
        let order = if is_number(first) && is_number(second) {
            let (x, y) = (without_zeros(first), without_zeros(second));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            first.cmp(second)
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (&a[first.len()..], &b[second.len()..]);
    }
}

fn is_number(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

/// The digits, or the text up to the next digit, that it begins with.
fn run(text: &[u8]) -> &[u8] {
    let number = is_number(text);
    let end = text.iter().position(|next| next.is_ascii_digit() != number).unwrap_or(text.len());
    &text[..end]
}

fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|digit| **digit == b'0').count()..]
}

/// Sorts in [`natural`] order. Those with the same id keep their order.
pub(crate) fn sort<T>(items: &mut [T], id: impl Fn(&T) -> &str) {
    // Rows mostly come in the order of their ids. Where that is the natural order as well, nothing has to be done.
    if items.is_sorted_by(|a, b| natural(id(a), id(b)).is_le()) {
        return;
    }
    let mut order = order(items, id);
    // Each item is swapped into its place. The one that was there waits where the other came from.
    for place in 0..items.len() {
        let mut from = order[place] as usize;
        while from < place {
            from = order[from] as usize;
        }
        order[place] = u32::try_from(from).unwrap_or(u32::MAX);
        items.swap(place, from);
    }
}

/// The places of the items in natural order of their ids.
fn order<T>(items: &[T], id: impl Fn(&T) -> &str) -> Vec<u32> {
    let mut keys = Vec::with_capacity(items.iter().map(|item| id(item).len()).sum());
    let mut ends = Vec::with_capacity(items.len());
    for item in items {
        write_key(id(item), &mut keys);
        ends.push(keys.len());
    }
    let key = |place: u32| {
        let place = place as usize;
        let begin = if place == 0 { 0 } else { ends[place - 1] };
        &keys[begin..ends[place]]
    };
    let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
    let first = if count == 0 { &[][..] } else { key(0) };
    let common = (1..count).fold(first.len(), |common, place| alike(&first[..common], key(place)));
    // Most keys differ within the sixteen bytes after what all of them have in common. These bytes stand side by side in memory.
    let mut order: Vec<(u128, u32)> = (0..count).map(|place| (head(&key(place)[common..]), place)).collect();
    order.sort_by(|(a_head, a), (b_head, b)| {
        let same_head = || key(*a).cmp(key(*b)).then_with(|| id(&items[*a as usize]).cmp(id(&items[*b as usize])));
        a_head.cmp(b_head).then_with(same_head)
    });
    order.into_iter().map(|(_, place)| place).collect()
}

/// Writes bytes that compare as the name does in natural order. A text is followed by a zero byte, which no text of the database has, so
/// that the shorter of two comes first. A number is written as the digit 0, which keeps its place among the texts, then the number of its
/// digits, and then the digits.
fn write_key(name: &str, key: &mut Vec<u8>) {
    let mut rest = name.as_bytes();
    while let Some(first) = rest.first() {
        let number = first.is_ascii_digit();
        let end = rest.iter().position(|byte| byte.is_ascii_digit() != number).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        if number {
            let zeros = run.iter().take_while(|digit| **digit == b'0').count();
            let digits = &run[zeros..];
            key.push(b'0');
            match u8::try_from(digits.len()) {
                Ok(length) if length < u8::MAX => key.push(length),
                _ => {
                    key.push(u8::MAX);
                    key.extend((digits.len() as u64).to_be_bytes());
                }
            }
            key.extend_from_slice(digits);
        } else {
            key.extend_from_slice(run);
            key.push(0);
        }
        rest = after;
    }
}

/// How many bytes two keys have in common at their beginning.
fn alike(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The first sixteen bytes as a number of the same order.
fn head(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    for (byte, of_key) in bytes.iter_mut().zip(key) {
        *byte = *of_key;
    }
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_sorted_as_numbers() {
        let mut names = ["w10", "w2", "w1", "a", "w", "w1b", "w01", "10", "9", "w1a2", "w1a10", ""];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["", "9", "10", "a", "w", "w01", "w1", "w1a2", "w1a10", "w1b", "w2", "w10"]);
        assert_eq!(natural("99999999999999999999999998", "99999999999999999999999999"), Ordering::Less);
        assert_eq!(natural("ä2", "ä10"), Ordering::Less);
    }

    #[test]
    fn a_fleet_is_sorted_as_its_ids_are_compared() {
        let mut seed = 7_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % below
        };
        let long = "9".repeat(300);
        let pieces = ["0", "00", "1", "9", "10", "a", "ab", "-", "/", ":", "ä", "\u{202e}", "\u{1}", " ", &long];
        for common in ["", "ws-00", "00000000-0000-4000-8000-"] {
            let mut names: Vec<String> = (0..2_000)
                .map(|_| {
                    let length = random(6);
                    (0..length).fold(common.to_owned(), |name, _| name + pieces[random(pieces.len())])
                })
                .collect();
            let mut expected = names.clone();
            expected.sort_by(|a, b| natural(a, b));
            sort(&mut names, |name| name);
            assert_eq!(names, expected);
        }
        let mut same = vec![("w2", 1), ("w1", 2), ("w2", 3), ("w1", 4)];
        sort(&mut same, |(id, _)| id);
        assert_eq!(same, [("w1", 2), ("w1", 4), ("w2", 1), ("w2", 3)]);
        sort(&mut Vec::<String>::new(), |name| name);
    }
}
