//! What an engine answers (Docker Engine API; podman speaks it too), and how its containers and images are named by it.

use serde::Deserialize;

use super::ContainerName;
use crate::model::Compose;

/// An element of `GET /containers/json` (ContainerList).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    pub id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    labels: Option<Labels>,
}

/// A line of `GET /events` (SystemEvents).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EngineEvent {
    #[serde(default)]
    pub action: String,
    pub actor: Actor,
}

#[derive(Deserialize)]
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Attributes", default)]
    pub attributes: ActorAttributes,
}

/// The container's labels stand among the attributes.
#[derive(Default, Deserialize)]
pub struct ActorAttributes {
    name: Option<String>,
    image: Option<String>,
    #[serde(flatten)]
    labels: Labels,
}

/// The labels that say more than the engine's own name does.
#[derive(Default, Deserialize)]
struct Labels {
    #[serde(rename = "com.docker.compose.project")]
    project: Option<String>,
    #[serde(rename = "io.podman.compose.project")]
    podman_project: Option<String>,
    #[serde(rename = "com.docker.compose.service")]
    service: Option<String>,
    #[serde(rename = "io.podman.compose.service")]
    podman_service: Option<String>,
    /// The kubelet's, where it runs containers by Docker: the engine's name is then `k8s_…` with the pod's name and uid in it.
    #[serde(rename = "io.kubernetes.container.name")]
    kubernetes_name: Option<String>,
}

impl Labels {
    fn compose(&mut self) -> Option<Compose> {
        let project = self.project.take().or(self.podman_project.take())?;
        let service = self.service.take().or(self.podman_service.take())?;
        Some(Compose { project, service })
    }
}

fn name(own: String, image: Option<String>, mut labels: Labels) -> ContainerName {
    let compose = labels.compose();
    // The container that holds the pod's namespaces is "POD" in every pod.
    let name = labels.kubernetes_name.filter(|name| own.starts_with("k8s_") && name != "POD").unwrap_or(own);
    ContainerName { name, image, compose }
}

impl Listed {
    /// By its own name, rather than the names that legacy links give it (`/web/database`).
    pub fn into_name(self) -> Option<ContainerName> {
        let bare = |name: &String| name.trim_start_matches('/').to_owned();
        let own = self.names?.iter().map(bare).find(|name| !name.is_empty() && !name.contains('/'))?;
        Some(name(own, self.image, self.labels.unwrap_or_default()))
    }
}

impl ActorAttributes {
    /// What the event says; what it leaves out is as it was.
    pub fn into_name(self, known: Option<&ContainerName>) -> Option<ContainerName> {
        let own = self.name.map(|name| name.trim_start_matches('/').to_owned())?;
        let known_image = known.and_then(|known| known.image.clone());
        let image = self.image.filter(|image| !is_image_id(image) || known_image.is_none()).or(known_image);
        let mut new = name(own, image, self.labels);
        new.compose = new.compose.or_else(|| known.and_then(|known| known.compose.clone()));
        Some(new)
    }
}

/// An element of `GET /images/json` (ImageList).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

impl Image {
    /// The name of this image, if `id` means it.
    pub fn name_of(&self, id: &str) -> Option<&String> {
        let bare = |id| str::strip_prefix(id, "sha256:").unwrap_or(id);
        let tags = self.repo_tags.iter().flatten();
        tags.into_iter().find(|tag| !tag.starts_with("<none>")).filter(|_| bare(&self.id).starts_with(bare(id)))
    }
}

/// Whether an image stands there by its id: it was run by that, or its name is another's by now.
pub fn is_image_id(image: &str) -> bool {
    let digits = image.strip_prefix("sha256:");
    let is_hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    digits.is_some_and(is_hexadecimal) || ([12, 64].contains(&image.len()) && is_hexadecimal(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> ContainerName {
        serde_json::from_str::<Listed>(text).unwrap().into_name().unwrap()
    }

    #[test]
    fn compose_is_read_from_dockers_and_from_podmans_labels() {
        for (prefix, other) in [("com.docker.compose", "x"), ("io.podman.compose", "x")] {
            let name = listed(&format!(
                r#"{{"Id":"aa","Names":["/shop-web-1"],"Image":"web:1","Labels":{{"{prefix}.project":"shop","{prefix}.service":"web","{other}":"y"}}}}"#
            ));
            assert_eq!(name.compose, Some(Compose { project: "shop".into(), service: "web".into() }));
            assert_eq!(name.name, "shop-web-1");
        }
        assert_eq!(listed(r#"{"Id":"a","Names":["/x"],"Labels":{"com.docker.compose.project":"shop"}}"#).compose, None);
        assert_eq!(listed(r#"{"Id":"a","Names":["/x"],"Labels":null}"#).compose, None);
    }

    #[test]
    fn containers_of_the_kubelet_are_called_as_in_their_pod() {
        let named = |own: &str, label: &str| {
            listed(&format!(r#"{{"Id":"aa","Names":["/{own}"],"Labels":{{"io.kubernetes.container.name":"{label}"}}}}"#)).name
        };
        assert_eq!(named("k8s_web_shop-1_default_0123_0", "web"), "web");
        assert_eq!(named("k8s_POD_shop-1_default_0123_0", "POD"), "k8s_POD_shop-1_default_0123_0");
        assert_eq!(named("mine", "web"), "mine");
    }

    #[test]
    fn images_go_by_their_names() {
        let id = "a".repeat(64);
        for image in [&id, &format!("sha256:{id}"), &id[..12], "sha256:abc"] {
            assert!(is_image_id(image), "{image}");
        }
        for image in ["nginx", "nginx:1.25", "facade", "sha256:", "AAAAAAAAAAAA", "deadbeef0000:1"] {
            assert!(!is_image_id(image), "{image}");
        }
        let image: Image = serde_json::from_str(&format!(r#"{{"Id":"sha256:{id}","RepoTags":["<none>:<none>","web:1"]}}"#)).unwrap();
        assert_eq!(image.name_of(&id[..12]).map(String::as_str), Some("web:1"));
        assert_eq!(image.name_of(&format!("sha256:{id}")).map(String::as_str), Some("web:1"));
        assert_eq!(image.name_of("bbbbbbbbbbbb"), None);
        let bare: Image = serde_json::from_str(&format!(r#"{{"Id":"sha256:{id}","RepoTags":null}}"#)).unwrap();
        assert_eq!(bare.name_of(&id), None);
    }

    #[test]
    fn an_event_keeps_what_it_does_not_say() {
        let known = ContainerName {
            name: "old".into(),
            image: Some("web:1".into()),
            compose: Some(Compose { project: "shop".into(), service: "web".into() }),
        };
        let said: ActorAttributes = serde_json::from_str(r#"{"name":"new","image":"sha256:abc","oldName":"/old"}"#).unwrap();
        assert_eq!(said.into_name(Some(&known)), Some(ContainerName { name: "new".into(), ..known }));
        let said: ActorAttributes = serde_json::from_str(r#"{"name":"new","image":"sha256:abc"}"#).unwrap();
        assert_eq!(said.into_name(None).unwrap().image.as_deref(), Some("sha256:abc"));
    }
}
