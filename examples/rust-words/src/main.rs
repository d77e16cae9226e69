//! Counts the words of what it is sent.
use std::collections::BTreeMap;
use std::io::Read;

fn count(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    counts
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let server = tiny_http::Server::http("0.0.0.0:8080")?;
    for mut request in server.incoming_requests() {
        let mut text = String::new();
        request.as_reader().take(1 << 20).read_to_string(&mut text)?;
        let lines: Vec<String> = count(&text).iter().map(|(word, count)| format!("{word} {count}\n")).collect();
        request.respond(tiny_http::Response::from_string(lines.concat()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_the_same_in_capitals() {
        let counts = super::count("The cat, the mat.");
        assert_eq!(counts.get("the"), Some(&2));
    }
}
