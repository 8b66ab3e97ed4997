package gpus_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/services/agent/gpus"
)

// Deployments name GPUs by these names; a wrong one breaks them.
func TestNames(t *testing.T) {
	t.Parallel()
	for product, want := range map[string]string{
		"NVIDIA-H100-80GB-HBM3":          "H100",
		"NVIDIA H100 80GB HBM3":          "H100",
		"NVIDIA H100 PCIe":               "H100",
		"NVIDIA H100 NVL":                "H100",
		"NVIDIA-H100-NVL":                "H100",
		"NVIDIA H800":                    "H800",
		"NVIDIA H20":                     "H20",
		"NVIDIA-H200":                    "H200",
		"NVIDIA H200 NVL":                "H200",
		"NVIDIA-GH200-480GB":             "GH200",
		"NVIDIA GH200 144G HBM3e":        "GH200",
		"NVIDIA B200":                    "B200",
		"NVIDIA B300 SXM6 AC":            "B300",
		"NVIDIA GB200":                   "GB200",
		"NVIDIA-A100-SXM4-40GB":          "A100",
		"NVIDIA A100-SXM4-80GB":          "A100",
		"NVIDIA A100 80GB PCIe":          "A100",
		"NVIDIA-A100-PCIE-40GB":          "A100",
		"A100-SXM-80GB":                  "A100",
		"NVIDIA A800-SXM4-80GB":          "A800",
		"NVIDIA A10":                     "A10",
		"NVIDIA-A10G":                    "A10G",
		"NVIDIA A16":                     "A16",
		"NVIDIA A2":                      "A2",
		"NVIDIA A30":                     "A30",
		"NVIDIA A40":                     "A40",
		"NVIDIA-L4":                      "L4",
		"NVIDIA L40":                     "L40",
		"NVIDIA-L40S":                    "L40S",
		"NVIDIA L40S-SHARED":             "L40S",
		"NVIDIA RTX A6000":               "RTXA6000",
		"NVIDIA RTX 6000 Ada Generation": "RTX6000",
		"NVIDIA RTX 5000 Ada Generation": "RTX5000",
		"NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition":             "RTXPRO6000",
		"NVIDIA RTX PRO 4500 Blackwell":                            "RTXPRO4500",
		"NVIDIA-GeForce-RTX-3070-Ti":                               "RTX3070Ti",
		"NVIDIA GeForce RTX 3090":                                  "RTX3090",
		"NVIDIA GeForce RTX 4070 Ti SUPER":                         "RTX4070Ti",
		"NVIDIA GeForce RTX 4090":                                  "RTX4090",
		"NVIDIA GeForce RTX 4090 Laptop GPU":                       "RTX4090",
		"NVIDIA GeForce RTX 5090":                                  "RTX5090",
		"GEFORCE-RTX-4080-TI-32GB":                                 "RTX4080Ti",
		"NVIDIA GeForce GTX 1080 Ti":                               "GTX1080Ti",
		"GeForce-GTX-1660":                                         "GTX1660",
		"Quadro-RTX-8000":                                          "RTX8000",
		"Quadro RTX 6000":                                          "RTX6000",
		"TU106-GeForce-RTX-2070-Rev.-A":                            "RTX2070",
		"Tesla-T4":                                                 "T4",
		"Tesla-V100-SXM2-16GB":                                     "V100",
		"Tesla V100S-PCIE-32GB":                                    "V100S",
		"Tesla P100-PCIE-16GB":                                     "P100",
		"Tesla P40":                                                "P40",
		"Tesla K80":                                                "K80",
		"NVIDIA Tesla T4":                                          "T4",
		"NVIDIA-A100-SXM4-40GB-MIG-1g.5gb":                         "A100-MIG-1g-5gb",
		"NVIDIA-A100-SXM4-80GB-MIG-3G.40GB":                        "A100-MIG-3g-40gb",
		"NVIDIA-H100-80GB-HBM3-MIG-1g-10gb":                        "H100-MIG-1g-10gb",
		"NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition-MIG-2g.48gb": "RTXPRO6000-MIG-2g-48gb",
		"NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition-SHARED":      "RTXPRO6000",
		"NVIDIA TITAN V":                                           "TITAN",
		"NVIDIA Graphics Device":                                   "GRAPHICS",
		"NVIDIA-H200-141GB":                                        "H200",
	} {
		got, err := gpus.Name(product, nil)
		require.NoError(t, err, product)
		require.Equal(t, want, got, product)
	}
}

func TestNamesThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, product := range []string{"", "NVIDIA", "NVIDIA-GeForce", "80GB", "-MIG-1g.5gb", "NVIDIA-ABCDEFGHIJKLMNOPQRSTUVWXYZ", "NVIDIA-A_β"} {
		_, err := gpus.Name(product, nil)
		require.Error(t, err, product)
		require.ErrorContains(t, err, "override")
	}
}

func TestOverridesWin(t *testing.T) {
	t.Parallel()
	overrides := map[string]string{"NVIDIA-H100-PCIe": "H100-PCIE", "NVIDIA Odd": "not a name"}
	got, err := gpus.Name("NVIDIA H100 PCIe", overrides)
	require.NoError(t, err)
	require.Equal(t, "H100-PCIE", got)
	_, err = gpus.Name("NVIDIA Odd", overrides)
	require.Error(t, err)
}

func FuzzName(f *testing.F) {
	f.Add("NVIDIA-RTX-PRO-6000-MIG-2g.48gb")
	f.Add("RTX-GTX--")
	f.Fuzz(func(t *testing.T, product string) {
		if name, err := gpus.Name(product, nil); err == nil {
			require.Regexp(t, `^[A-Za-z0-9_-]{1,22}$`, name)
		}
	})
}
