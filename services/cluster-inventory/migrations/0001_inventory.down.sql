DROP TABLE cluster_inventory.images;
DROP TABLE cluster_inventory.nodes;
DROP TABLE cluster_inventory.clusters;
