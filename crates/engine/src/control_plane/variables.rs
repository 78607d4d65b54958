//! What the operator gave beside the preset: the token, and whatever the address says behind its `?`.
//!
//! `cp+https://host/base?preset=fly-machines&app=my-app` gives the variable `app`, which a preset names as `${app}`. A value
//! that should not stand in an address comes from a file: `admin_token_file=/run/secrets/admin` gives `admin_token`. All of
//! them count as secrets: none is ever shown.

use std::collections::BTreeMap;
use std::path::Path;

use url::Url;

use super::document::PresetError;
use crate::secret::Secret;

/// The parameter that names the preset.
pub(crate) const PRESET: &str = "preset";

/// The parameter that names a file of certificates to trust beside the system's.
pub(crate) const CA: &str = "ca";

/// The variable that `DEFIB_ENGINE_TOKEN_…` or `DEFIB_PLATFORM_TOKEN` gives.
pub(crate) const TOKEN: &str = "token";

/// What complaints about the parameters begin with.
const ADDRESS: &str = "the address";

/// What a parameter's name ends with when its value is to be read from a file.
const FILE: &str = "_file";

/// Values by name, and where a missing one would have to be given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    values: BTreeMap<String, Secret>,
    /// The environment variable that gives the token.
    token_from: String,
}

impl Variables {
    /// Reads the address's parameters, and the files that they name.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, and a name that is given twice.
    pub(crate) fn read(url: &Url, token: Option<&Secret>, token_from: String) -> Result<Self, PresetError> {
        let mut variables = Self { values: BTreeMap::new(), token_from };
        if let Some(token) = token {
            variables.values.insert(TOKEN.to_owned(), token.clone());
        }
        for (name, value) in url.query_pairs() {
            if matches!(&*name, PRESET | CA) {
                continue;
            }
            let (name, value) = match name.strip_suffix(FILE) {
                Some(stem) if !stem.is_empty() => (stem.to_owned(), read_file(&name, Path::new(&*value))?),
                _ => (name.into_owned(), value.into_owned()),
            };
            if variables.values.insert(name.clone(), Secret::new(value)).is_some() {
                return Err(PresetError::of_all(ADDRESS, format!("{name} is given twice")));
            }
        }
        Ok(variables)
    }

    #[cfg(test)]
    pub(crate) fn of(values: &[(&str, &str)]) -> Self {
        let value = |(name, value): &(&str, &str)| ((*name).to_owned(), Secret::from(*value));
        Self { values: values.iter().map(value).collect(), token_from: "DEFIB_ENGINE_TOKEN_TEST".into() }
    }

    /// A value. An empty one counts as not given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(Secret::expose).filter(|value| !value.is_empty())
    }

    /// Where a missing value would have to be given.
    pub(crate) fn how_to_give(&self, name: &str) -> String {
        if name == TOKEN {
            format!("set {} (or {}_FILE)", self.token_from, self.token_from)
        } else {
            format!("add {name}=… to the address behind its ?, or {name}{FILE}=/path/of/a/file")
        }
    }

    /// Replaces every value in a text that came from a server.
    pub(crate) fn strike_out(&self, text: &str) -> String {
        self.values.values().fold(text.to_owned(), |text, secret| secret.strike_out(&text))
    }
}

/// Reads a value from a file. Line feeds at the end are left out, because they are usually not part of the secret.
fn read_file(name: &str, path: &Path) -> Result<String, PresetError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| PresetError::of_all(ADDRESS, format!("{name}: cannot read {}: {error}", path.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Variables, PresetError> {
        Variables::read(&url.parse().unwrap(), Some(&"t0ken".into()), "DEFIB_ENGINE_TOKEN_CLOUD".into())
    }

    #[test]
    fn variables_come_from_the_address_from_files_and_from_the_token() {
        let file = std::env::temp_dir().join(format!("defib-variables-{}", std::process::id()));
        std::fs::write(&file, "adm1n\n").unwrap();
        let url = format!("https://h/b?preset=p&ca=/x&app=my%20app&none=&admin_file={}", file.display());
        let variables = read(&url).unwrap();
        std::fs::remove_file(&file).unwrap();
        for (name, value) in [("app", Some("my app")), ("admin", Some("adm1n")), ("token", Some("t0ken"))] {
            assert_eq!(variables.get(name), value);
        }
        for absent in ["preset", "ca", "none", "other", "admin_file"] {
            assert_eq!(variables.get(absent), None, "{absent}");
        }
        assert_eq!(variables.strike_out("t0ken of my app, adm1n"), "(secret) of (secret), (secret)");
        assert!(!format!("{variables:?}").contains("adm1n"));
    }

    #[test]
    fn what_cannot_be_read_is_named_and_not_shown() {
        let error = read("https://h?admin_file=/nowhere/at/all").unwrap_err().to_string();
        assert!(error.contains("admin_file: cannot read /nowhere/at/all"), "{error}");
        let error = read("https://h?token=s3cret").unwrap_err().to_string();
        assert_eq!(error, "the address: token is given twice");
    }

    #[test]
    fn a_missing_one_is_asked_for_where_it_is_given() {
        let variables = read("https://h").unwrap();
        assert_eq!(variables.how_to_give("token"), "set DEFIB_ENGINE_TOKEN_CLOUD (or DEFIB_ENGINE_TOKEN_CLOUD_FILE)");
        assert!(variables.how_to_give("app").contains("app_file="));
    }
}
