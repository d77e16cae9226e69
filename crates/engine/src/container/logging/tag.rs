//! The log option `tag`: text with places for what a container is and runs, as `{{.Name}}`.

use crate::model::ContainerRecord;
use crate::{Error, Result};

/// What is put in a place.
type Field = fn(&ContainerRecord) -> String;

/// What places are called.
const FIELDS: [(&str, Field); 9] = [
    ("ID", |record| record.id.short().to_owned()),
    ("FullID", |record| record.id.to_string()),
    ("Name", |record| record.name.clone()),
    ("ImageName", |record| record.config.image.clone()),
    // As many characters as of a container's identifier, the name of the digest's algorithm among them: so it is in dockerd.
    ("ImageID", |record| record.image_id.chars().take(12).collect()),
    ("ImageFullID", |record| record.image_id.clone()),
    ("DaemonName", |_| "stratus".to_owned()),
    ("Command", |record| record.argv().join(" ")),
    ("Hostname", |_| crate::system::host_name()),
];

/// A tag that was understood.
pub(super) struct Tag<'a>(Vec<Part<'a>>);

enum Part<'a> {
    Text(&'a str),
    Field(Field),
}

impl<'a> Tag<'a> {
    /// Reads a tag.
    ///
    /// # Errors
    /// Refuses a place that is not closed, and one for something else.
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, place)) = rest.split_once("{{") {
            let (place, after) = place
                .split_once("}}")
                .ok_or_else(|| Error::invalid(format!("invalid log tag {text:?}: unclosed action")))?;
            let field = place.trim().strip_prefix('.');
            let known = field.and_then(|name| FIELDS.iter().find(|(known, _)| *known == name));
            let (_, field) = known.ok_or_else(|| {
                let known = FIELDS.map(|(name, _)| format!("{{{{.{name}}}}}")).join(", ");
                Error::invalid(format!("invalid log tag: {{{{{place}}}}} is not known: there are {known}"))
            })?;
            parts.extend([Part::Text(before), Part::Field(*field)]);
            rest = after;
        }
        parts.push(Part::Text(rest));
        Ok(Self(parts))
    }

    /// The tag of a container.
    pub(super) fn of(&self, record: &ContainerRecord) -> String {
        let part = |part: &Part<'_>| match part {
            Part::Text(text) => (*text).to_owned(),
            Part::Field(field) => field(record),
        };
        self.0.iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_filled() {
        let mut record = ContainerRecord::sample();
        record.name = "web".to_owned();
        record.config.image = "app:1".to_owned();
        record.config.cmd = Some(vec!["echo".to_owned(), "hi".to_owned()]);
        record.image_id = "sha256:0123456789abcdef".to_owned();
        let tag = |text| Tag::parse(text).expect("a tag").of(&record);
        assert_eq!(tag("{{.ImageName}}/{{ .Name }}/{{.ID}}"), format!("app:1/web/{}", record.id.short()));
        assert_eq!(
            tag("{{.FullID}} {{.ImageID}} {{.ImageFullID}}"),
            format!("{} sha256:01234 sha256:0123456789abcdef", record.id)
        );
        assert_eq!(tag("{{.DaemonName}}: {{.Command}}"), "stratus: echo hi");
        assert_eq!((tag(""), tag("}} as it is")), (String::new(), "}} as it is".to_owned()));
    }

    #[test]
    fn what_can_not_be_filled_is_refused() {
        let refusal = |text| Tag::parse(text).map(drop).expect_err("refused").to_string();
        assert_eq!(refusal("a{{.Name"), "invalid log tag \"a{{.Name\": unclosed action");
        assert!(
            refusal("{{.Labels}}")
                .starts_with("invalid log tag: {{.Labels}} is not known: there are {{.ID}}, {{.FullID}}")
        );
        assert!(refusal("{{Name}}").contains("{{Name}}"));
    }
}
