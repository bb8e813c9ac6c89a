//! Equal texts and containers of many pods are held once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::super::container::ContainerName;

/// Below this nothing is swept.
const SWEPT_FROM: usize = 4_096;

/// What was asked for and is still held elsewhere, and a bounded rest.
#[derive(Debug, Default)]
pub struct Strings {
    texts: HashSet<Arc<str>>,
    containers: HashMap<(Arc<str>, Arc<str>), Arc<ContainerName>>,
    sweep_at: usize,
}

impl Strings {
    pub fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }

    /// An empty image is none.
    pub fn container(&mut self, name: &str, image: &str) -> Arc<ContainerName> {
        let key = (self.text(name), self.text(image));
        let made = || {
            let image = (!image.is_empty()).then(|| image.to_owned());
            Arc::new(ContainerName { name: name.to_owned(), image, compose: None })
        };
        Arc::clone(self.containers.entry(key).or_insert_with(made))
    }

    /// Lets go of what nobody else holds, if there is much: each sweep is paid for by as many additions.
    pub fn sweep(&mut self) {
        if self.texts.len() + self.containers.len() < self.sweep_at.max(SWEPT_FROM) {
            return;
        }
        self.containers.retain(|_, container| Arc::strong_count(container) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.texts.shrink_to_fit();
        self.sweep_at = (self.texts.len() + self.containers.len()) * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_what_nobody_holds_goes() {
        let mut strings = Strings::default();
        let (a, b) = (strings.text("shop"), strings.text("shop"));
        assert!(Arc::ptr_eq(&a, &b));
        let (one, two) = (strings.container("web", "nginx:1"), strings.container("web", "nginx:1"));
        assert!(Arc::ptr_eq(&one, &two));
        for number in 0..SWEPT_FROM {
            strings.text(&number.to_string());
        }
        strings.sweep();
        assert_eq!((strings.texts.len(), strings.containers.len()), (3, 1));
        assert!(Arc::ptr_eq(&strings.text("shop"), &a));
    }
}
