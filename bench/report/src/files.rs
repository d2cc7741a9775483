//! The files that are generated from the results.

use crate::project::path;
use crate::results::Results;
use crate::{distance, markdown, picture};
use std::fs;

/// Writes all generated files.
pub fn generate(results: &Results) {
    let files = generated(results);
    for file in files.iter().filter(|file| !file.is_current()) {
        fs::write(path(file.name), &file.text).unwrap();
    }
}

/// The names of the generated files that do not match the results.
pub fn stale(results: &Results) -> Vec<&'static str> {
    let files = generated(results);
    let stale = files.iter().filter(|file| !file.is_current());
    stale.map(|file| file.name).collect()
}

/// A file with the text that it should have.
struct Generated {
    name: &'static str,
    text: String,
}

impl Generated {
    fn is_current(&self) -> bool {
        fs::read_to_string(path(self.name)).is_ok_and(|text| text == self.text)
    }
}

/// All files that are generated from the results.
fn generated(results: &Results) -> Vec<Generated> {
    let pictures = [
        ("bench/results.svg", Some(picture::render(results))),
        ("bench/planes.svg", picture::planes::render(results)),
    ];
    let pictures = pictures.into_iter().filter_map(|(name, text)| {
        let text = text?;
        Some(Generated { name, text })
    });
    let blocks = [
        ("docs/performance.md", "figures", markdown::figures(results)),
        ("docs/performance.md", "distance", distance::table(results)),
        ("docs/performance.md", "results", markdown::results(results)),
    ];
    let mut files: Vec<Generated> = pictures.collect();
    for (name, mark, block) in blocks {
        let known = files.iter().position(|file| file.name == name);
        let text = match known {
            Some(index) => files[index].text.clone(),
            None => fs::read_to_string(path(name)).unwrap_or_default(),
        };
        let text = markdown::with_block(&text, mark, &block);
        let text = text.unwrap_or_else(|| panic!("{name} has no block '{mark}'"));
        match known {
            Some(index) => files[index].text = text,
            None => files.push(Generated { name, text }),
        }
    }
    files
}
