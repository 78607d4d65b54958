//! The types of messages. The tables of `defib` write them; they are listed here for the knob `DEFIB_WEBHOOK_EVENTS`.

/// Every type that can be asked for. In a storm, many messages of one type about workspaces become one whose type ends in [`DIGEST`].
pub(crate) const KINDS: [&str; 10] = [
    "restart.succeeded",
    "restart.failed",
    "workspace.recovered",
    "workspace.exhausted",
    "workspace.contradiction",
    "workspace.lost",
    "storm.began",
    "storm.ended",
    "hold.placed",
    "hold.released",
];

/// What the type of a digest ends in.
pub(crate) const DIGEST: &str = ".digest";

/// What `defib notify test` sends.
pub(crate) const TEST: &str = "notify.test";

/// The types that a list names.
///
/// # Errors
/// One sentence for each word that is not a type, with the nearest type.
pub(crate) fn parse(list: &str) -> Result<Vec<String>, Vec<String>> {
    let words: Vec<&str> = list.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    let unknown = |word: &&str| !KINDS.contains(word);
    let faults: Vec<String> = words.iter().copied().filter(unknown).map(fault).collect();
    if faults.is_empty() { Ok(words.into_iter().map(str::to_owned).collect()) } else { Err(faults) }
}

fn fault(word: &str) -> String {
    let wanted = word.strip_suffix(DIGEST).unwrap_or(word);
    let nearest = KINDS.into_iter().min_by_key(|kind| strsim::levenshtein(kind, wanted));
    let hint = nearest
        .filter(|kind| strsim::levenshtein(kind, wanted) <= 4)
        .map_or_else(|| format!("the types are {}", KINDS.join(", ")), |near| format!("did you mean {near}?"));
    format!("{} is not a type of message: {hint}", word.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_what_is_misspelt_is_told_with_the_nearest() {
        assert_eq!(parse(" storm.began, hold.placed ,"), Ok(vec!["storm.began".into(), "hold.placed".into()]));
        let faults = parse("restart.suceeded,hold.placed,weather").unwrap_err();
        assert_eq!(faults[0], "restart.suceeded is not a type of message: did you mean restart.succeeded?");
        assert!(
            faults[1].starts_with("weather is not a type of message: the types are restart.succeeded, "),
            "{faults:?}"
        );
        assert_eq!(
            parse("restart.failed.digest").unwrap_err(),
            ["restart.failed.digest is not a type of message: did you mean restart.failed?"]
        );
    }
}
