//! What a container of ours is for. Its record says so, where no client and no image can write.

use engine::model::ContainerRecord;
use engine::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Hooks, Policy};

/// What a purpose is written down under: others may have purposes of their own.
const OURS: &str = "microvms";

/// What a container is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    /// An image of that name is made of it, or tried out by it: it goes with who waits for that.
    Build(String),
    /// It is a microVM.
    Microvm(Told),
}

/// What is known of a microVM beyond its container: it outlives its image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// `NAME:VERSION` of its image.
    pub(crate) image: String,
    /// What its program is told.
    pub(crate) hooks: Option<Hooks>,
    /// The port at which its program was waited for, when the image was made.
    pub(crate) port: Option<u16>,
    /// What becomes of it by itself.
    pub(crate) policy: Policy,
    /// Its program was told whose it is. One that was not, as the daemon was killed before, is nobody's.
    pub(crate) begun: bool,
}

impl Purpose {
    /// As it is written down.
    pub(crate) fn written(&self) -> Result<String> {
        let value =
            serde_json::to_value(self).map_err(|error| Error::step("write down what a container is for", error))?;
        Ok(json!({ OURS: value }).to_string())
    }

    /// What a container is for; `None`: nothing of ours.
    pub(crate) fn of(record: &ContainerRecord) -> Option<Self> {
        let read = Self::read(record.purpose.as_deref()?)?;
        if let Err(error) = &read {
            tracing::error!(container = record.name, %error, "another version of stratus wrote down what it is for");
        }
        read.ok()
    }

    fn read(written: &str) -> Option<serde_json::Result<Self>> {
        let mut written: Value = serde_json::from_str(written).ok()?;
        Some(serde_json::from_value(written.get_mut(OURS)?.take()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read() {
        let told =
            Told { image: "web:1".to_owned(), hooks: None, port: Some(80), policy: Policy::default(), begun: false };
        for purpose in [Purpose::Build("web".to_owned()), Purpose::Microvm(told)] {
            assert_eq!(Purpose::read(&purpose.written().unwrap()).unwrap().unwrap(), purpose);
        }
        for other in ["", "{}", r#"{"functions":{}}"#, "[]"] {
            assert!(Purpose::read(other).is_none(), "{other}");
        }
        assert!(Purpose::read(r#"{"microvms":{"later":1}}"#).unwrap().is_err());
    }
}
