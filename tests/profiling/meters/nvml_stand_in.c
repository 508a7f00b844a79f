/* The calls of NVIDIA's management library that are used, with two cards in it.
   COUNTS 0: cards too old to count energy. CODE: what nvmlInit_v2 returns. */
#include <string.h>
#ifndef COUNTS
#define COUNTS 1
#endif
#ifndef CODE
#define CODE 0
#endif
#ifndef CARDS
#define CARDS 2
#endif
static int cards[2] = {0, 1};
static int readings = 0;
int nvmlInit_v2(void) { return CODE; }
const char *nvmlErrorString(int code) {
  return code == 4 ? "Insufficient Permissions" : code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : "Not Supported";
}
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = CARDS; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
  *device = &cards[index];
  return 0;
}
int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
  strncpy(name, *(int *)device ? "Tesla P4" : "NVIDIA RTX A2000", length);
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
  if (!COUNTS) return 3;
  if (++readings > 8) return 15;
  *millijoules = 5000000000000ULL + 1000ULL * readings;
  return 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
  *milliwatts = *(int *)device ? 22500 : 17250;
  return 0;
}
