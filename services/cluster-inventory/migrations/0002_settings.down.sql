DROP TABLE cluster_inventory.quota_rules;
DROP TABLE cluster_inventory.settings;
