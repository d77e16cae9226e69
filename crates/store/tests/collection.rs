//! Values of a type of one's own, by id.

use serde::{Deserialize, Serialize};
use store::{Collection, Error, Expect, Revision, Store, Update};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Network {
    subnet: String,
    containers: u32,
}

fn network(subnet: &str) -> Network {
    Network { subnet: subnet.to_owned(), containers: 0 }
}

fn networks() -> (Store, Collection<Network>) {
    let store = Store::in_memory().unwrap();
    let networks = Collection::new(&store, "net/network/");
    (store, networks)
}

#[test]
fn values_go_in_and_come_out() {
    let (store, networks) = networks();
    let revision = networks.put_if("blue", Expect::Absent, &network("10.0.1.0/24")).unwrap();
    networks.put("red", &network("10.0.2.0/24")).unwrap();
    store.txn().put("net/networkless", "not one of them").commit().unwrap();

    let blue = networks.get("blue").unwrap().unwrap();
    assert_eq!((blue.id.as_str(), &blue.value, blue.revision), ("blue", &network("10.0.1.0/24"), revision));
    let all = networks.list().unwrap();
    assert_eq!(all.revision, store.revision());
    assert_eq!(all.into_iter().map(|item| item.id).collect::<Vec<_>>(), ["blue", "red"]);

    assert!(networks.put_if("blue", Expect::Absent, &network("")).unwrap_err().is_conflict());
    networks.delete("blue").unwrap();
    assert_eq!(networks.get("blue").unwrap(), None);
    assert_eq!(store.get("net/network/red").unwrap().unwrap().value, br#"{"subnet":"10.0.2.0/24","containers":0}"#);
}

#[test]
fn an_update_that_meets_another_is_made_again() {
    let (_store, networks) = networks();
    networks.put("blue", &network("")).unwrap();
    let mut calls = 0;
    let after = networks
        .update("blue", |present| {
            let mut present = present.unwrap();
            calls += 1;
            if calls == 1 {
                networks.put("blue", &Network { containers: 10, ..network("") }).unwrap();
            }
            present.containers += 1;
            Update::Put(present)
        })
        .unwrap()
        .unwrap();
    assert_eq!((calls, after.value.containers, after.revision), (2, 11, Revision(3)));
    assert_eq!(networks.get("blue").unwrap().unwrap(), after);

    let kept = networks.update("blue", |_| Update::Keep).unwrap().unwrap();
    assert_eq!(kept, after);
    assert_eq!(networks.update("ghost", |_| Update::Keep).unwrap(), None);
    assert_eq!(networks.update("blue", |_| Update::Delete).unwrap(), None);
    let made = networks.update("blue", |present| Update::Put(present.unwrap_or(network("new")))).unwrap().unwrap();
    assert_eq!(made.value, network("new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_count_together() {
    let (_store, networks) = networks();
    networks.put_async("blue", &network("")).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let networks = networks.clone();
            tokio::spawn(async move {
                let add = |present: Option<Network>| {
                    let mut network = present.unwrap();
                    network.containers += 1;
                    Update::Put(network)
                };
                networks.update_async("blue", add).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(networks.get("blue").unwrap().unwrap().value.containers, 8);
    networks.delete_async("blue").await.unwrap();
    assert!(networks.put_if_async("blue", Expect::Present, &network("")).await.unwrap_err().is_conflict());
}

#[test]
fn several_collections_change_in_one_transaction() {
    let (store, networks) = networks();
    let names: Collection<String> = Collection::new(&store, "net/name/");
    let txn = store.txn().expect(names.key("web"), Expect::Absent);
    let txn = networks.put_in(txn, "n1", &network("10.0.0.0/24")).unwrap();
    let txn = names.put_in(txn, "web", &"n1".to_owned()).unwrap();
    let revision = txn.commit().unwrap();
    assert_eq!(networks.get("n1").unwrap().unwrap().revision, revision);
    assert_eq!(names.get("web").unwrap().unwrap().revision, revision);

    let mut watch = networks.watch(Revision::ZERO).unwrap();
    assert_eq!(watch.next_blocking().unwrap().key, "net/network/n1");
}

#[test]
fn what_cannot_be_understood_names_its_key() {
    let (store, networks) = networks();
    store.txn().put("net/network/odd", "{\"subnet\":7}").commit().unwrap();
    let error = networks.get("odd").unwrap_err();
    assert!(matches!(&error, Error::Decode { key, .. } if key == "net/network/odd"), "{error}");
    assert!(networks.list().is_err());
    assert!(networks.update("odd", |_| Update::Delete).is_err());
    networks.put_relaxed("odd", &network("")).unwrap();
    assert_eq!(networks.get("odd").unwrap().unwrap().value, network(""));
}
