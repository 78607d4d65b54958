//! Texts that are kept word by word in `golden/*.txt`: what `status` and `explain` print, and what the log says of each verdict.
//! `UPDATE_GOLDEN=1 cargo test -p defib golden` writes them anew; read the difference before you commit it.

use std::path::Path;

/// Compares with the file, or writes it.
pub(crate) fn matches(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden").join(format!("{name}.txt"));
    let text = format!("{}\n", text.trim_end());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, text, "{name} differs from {}; UPDATE_GOLDEN=1 writes it anew", path.display());
}
