//! Names of workspaces and engines: which name was probably meant if somebody types one that does not exist.

use defib_store::{HoldScope, Store};

use super::natural::natural;
use crate::logging::printable;
use crate::refused::Refused;

/// Whether a workspace can have this id. The database has no text with a NUL, and to ask it for one is a fault of the question.
pub(crate) fn can_exist(id: &str) -> bool {
    !id.contains('\0')
}

/// The name that was probably meant, if one is near enough to be worth a question.
pub(crate) fn nearest<'a>(meant: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (meant.chars().count() / 3).clamp(1, 3);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(meant, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by(|(a, x), (b, y)| a.cmp(b).then_with(|| natural(x, y)))
        .map(|(_, name)| name)
}

/// What to say of a name that does not exist.
pub(crate) fn unknown<'a>(kind: &str, meant: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let hint = nearest(meant, names).map_or_else(
        || "`defib status` lists those there are".to_owned(),
        |name| format!("did you mean {}?", printable(name)),
    );
    format!("there is no {kind} {}: {hint}", printable(meant))
}

/// Refuses a workspace or an engine that does not exist, and suggests the nearest that does.
pub(crate) async fn must_exist(store: &Store, scope: &HoldScope) -> anyhow::Result<()> {
    if store.is_known(scope).await? {
        return Ok(());
    }
    let names = store.names_like(scope).await?;
    let (kind, target) = scope.parts();
    Err(NoSuch(unknown(kind, target.unwrap_or_default(), names.iter().map(String::as_str))).into())
}

/// A name that does not exist: one line, exit code 1.
#[derive(Debug)]
pub(crate) struct NoSuch(pub(crate) String);

impl std::fmt::Display for NoSuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoSuch {}

/// Refuses an empty reason, because the next person depends on it.
pub(crate) fn reason(text: &str) -> Result<&str, Refused> {
    let text = text.trim();
    if text.is_empty() {
        Err(Refused("--reason is empty: say why, somebody will read it".to_owned()))
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_name_is_not() {
        let names = ["agent-17", "agent-71", "gpu"];
        assert_eq!(nearest("agnet-17", names), Some("agent-17"));
        assert_eq!(nearest("gpv", names), Some("gpu"));
        assert_eq!(nearest("cpus", names), None);
        assert_eq!(unknown("engine", "gp\u{1b}", ["gpu"]), "there is no engine gp\\u{1b}: did you mean gpu?");
        assert_eq!(
            unknown("workspace", "nobody", names),
            "there is no workspace nobody: `defib status` lists those there are"
        );
    }
}
