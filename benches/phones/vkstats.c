// Asks the Vulkan driver's compiler what compute pipelines become.
//
//   vkstats features                    the first device, as one line of JSON: what decides how wgpu uses it
//   vkstats compile 0|1 <LIST           a line of JSON for each line of LIST: STORAGE_BUFFERS ENTRY_POINT SPIRV_FILE;
//                                       1 where wgpu lets the driver choose the size of subgroups
//
// A line is written as soon as its pipeline is compiled, so that the reader knows which file a driver dies of.
#define VK_NO_PROTOTYPES
#include <vulkan/vulkan.h>

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_EXTENSIONS = 1024, MAX_BUFFERS = 8, MAX_STATISTICS = 128 };

static PFN_vkGetInstanceProcAddr get_proc;
static VkInstance instance;
#define LOAD(name) PFN_##name name = (PFN_##name)get_proc(instance, #name)

static VkPhysicalDevice physical;
static VkPhysicalDeviceFeatures2 features;
static VkPhysicalDeviceVulkan11Features features11;
static VkPhysicalDeviceVulkan12Features features12;
static VkPhysicalDeviceVulkan13Features features13;
static VkPhysicalDeviceRobustness2FeaturesEXT robustness2;
static VkPhysicalDeviceCooperativeMatrixFeaturesKHR cooperative;
static VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR executables;
static VkPhysicalDeviceProperties2 properties;
static VkPhysicalDeviceMaintenance3Properties maintenance3;
static VkPhysicalDeviceMaintenance4Properties maintenance4;
static VkPhysicalDeviceSubgroupProperties subgroups;
static VkPhysicalDeviceSubgroupSizeControlProperties sizes;
static VkPhysicalDeviceDriverProperties driver;
static int has_statistics, has_robustness2, has_cooperative, has_sizes;

static void fail(const char *what, int code) {
    fprintf(stderr, "vkstats: %s (%d)\n", what, code);
    exit(1);
}

static void check(VkResult result, const char *what) {
    if (result != VK_SUCCESS) fail(what, result);
}

static void json_string(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text < 32) printf("\\u%04x", *text);
        else putchar(*text);
    }
    putchar('"');
}

// Adds a structure to the front of a chain.
static void chain(void *head, void *next, VkStructureType type) {
    VkBaseOutStructure *first = head, *added = next;
    added->sType = type;
    added->pNext = first->pNext;
    first->pNext = added;
}

static void open_instance(void) {
    void *library = dlopen("libvulkan.so.1", RTLD_NOW);
    if (!library) fail(dlerror(), 0);
    get_proc = (PFN_vkGetInstanceProcAddr)dlsym(library, "vkGetInstanceProcAddr");
    LOAD(vkCreateInstance);
    VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_3};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
    check(vkCreateInstance(&info, NULL, &instance), "vkCreateInstance");
    LOAD(vkEnumeratePhysicalDevices);
    uint32_t count = 1;
    VkResult result = vkEnumeratePhysicalDevices(instance, &count, &physical);
    if ((result != VK_SUCCESS && result != VK_INCOMPLETE) || count == 0) fail("there is no device", result);
}

static void query_device(void) {
    LOAD(vkEnumerateDeviceExtensionProperties);
    LOAD(vkGetPhysicalDeviceFeatures2);
    LOAD(vkGetPhysicalDeviceProperties2);
    static VkExtensionProperties extensions[MAX_EXTENSIONS];
    uint32_t count = MAX_EXTENSIONS;
    vkEnumerateDeviceExtensionProperties(physical, NULL, &count, extensions);
    for (uint32_t i = 0; i < count; i++) {
        const char *name = extensions[i].extensionName;
        has_statistics |= !strcmp(name, VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
        has_robustness2 |= !strcmp(name, VK_EXT_ROBUSTNESS_2_EXTENSION_NAME);
        has_cooperative |= !strcmp(name, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
        has_sizes |= !strcmp(name, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
    }
    features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    chain(&features, &features11, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES);
    chain(&features, &features12, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES);
    chain(&features, &features13, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES);
    chain(&features, &executables, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR);
    if (has_robustness2) chain(&features, &robustness2, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ROBUSTNESS_2_FEATURES_EXT);
    if (has_cooperative) chain(&features, &cooperative, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR);
    vkGetPhysicalDeviceFeatures2(physical, &features);

    properties.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
    chain(&properties, &maintenance3, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES);
    chain(&properties, &maintenance4, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_4_PROPERTIES);
    chain(&properties, &subgroups, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES);
    chain(&properties, &sizes, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES);
    chain(&properties, &driver, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES);
    vkGetPhysicalDeviceProperties2(physical, &properties);
}

// Matrices f16 · f16 → f32 of the scope subgroup, square, as a list of their sizes.
static void print_matrices(void) {
    printf("\"matrices\":[");
    LOAD(vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR);
    if (has_cooperative && cooperative.cooperativeMatrix && vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR) {
        uint32_t count = 0, printed = 0;
        vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR(physical, &count, NULL);
        VkCooperativeMatrixPropertiesKHR *all = calloc(count + 1, sizeof *all);
        for (uint32_t i = 0; i < count; i++) all[i].sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
        vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR(physical, &count, all);
        for (uint32_t i = 0; i < count; i++) {
            const VkCooperativeMatrixPropertiesKHR *m = &all[i];
            int half = m->AType == VK_COMPONENT_TYPE_FLOAT16_KHR && m->BType == VK_COMPONENT_TYPE_FLOAT16_KHR;
            int sums = m->CType == VK_COMPONENT_TYPE_FLOAT32_KHR && m->ResultType == VK_COMPONENT_TYPE_FLOAT32_KHR;
            if (half && sums && m->scope == VK_SCOPE_SUBGROUP_KHR && m->MSize == m->NSize && m->NSize == m->KSize)
                printf("%s%u", printed++ ? "," : "", m->MSize);
        }
        free(all);
    }
    printf("]");
}

static void print_features(void) {
    const VkPhysicalDeviceLimits *limits = &properties.properties.limits;
    uint32_t version = properties.properties.apiVersion;
    printf("{\"name\":");
    json_string(properties.properties.deviceName);
    printf(",\"driver\":");
    json_string(driver.driverName);
    printf(",\"driver_info\":");
    json_string(driver.driverInfo);
    printf(",\"vendor\":%u,\"vulkan\":[%u,%u]", properties.properties.vendorID, VK_API_VERSION_MAJOR(version), VK_API_VERSION_MINOR(version));
    printf(",\"float16\":%u,\"int8\":%u,\"storage16\":%u,\"uniform16\":%u,\"dot_product\":%u,\"robust_buffer_access2\":%u,\"image_robustness\":%u",
           features12.shaderFloat16, features12.shaderInt8, features11.storageBuffer16BitAccess,
           features11.uniformAndStorageBuffer16BitAccess, features13.shaderIntegerDotProduct,
           robustness2.robustBufferAccess2, features13.robustImageAccess);
    printf(",\"subgroup_operations\":%u,\"subgroup_stages\":%u,\"subgroup_size_control\":%d,\"subgroup_sizes\":[%u,%u]",
           subgroups.supportedOperations, subgroups.supportedStages, has_sizes, sizes.minSubgroupSize, sizes.maxSubgroupSize);
    printf(",\"max_storage_buffer_range\":%u,\"max_allocation_bytes\":%llu,\"max_buffer_bytes\":%llu,\"storage_alignment\":%llu",
           limits->maxStorageBufferRange, (unsigned long long)maintenance3.maxMemoryAllocationSize,
           (unsigned long long)maintenance4.maxBufferSize, (unsigned long long)limits->minStorageBufferOffsetAlignment);
    printf(",\"max_invocations\":%u,\"max_workgroup_width\":%u,\"workgroup_memory_bytes\":%u,", limits->maxComputeWorkGroupInvocations,
           limits->maxComputeWorkGroupSize[0], limits->maxComputeSharedMemorySize);
    print_matrices();
    printf(",\"statistics\":%d}\n", has_statistics && executables.pipelineExecutableInfo);
}

// A device with every feature that it has: those that wgpu leaves off change no compute pipeline of ours.
static VkDevice open_device(void) {
    LOAD(vkCreateDevice);
    LOAD(vkGetPhysicalDeviceQueueFamilyProperties);
    if (!has_statistics || !executables.pipelineExecutableInfo) fail("the driver has no statistics of pipelines", 0);
    VkQueueFamilyProperties families[16];
    uint32_t count = 16, family = 0;
    vkGetPhysicalDeviceQueueFamilyProperties(physical, &count, families);
    while (family < count && !(families[family].queueFlags & VK_QUEUE_COMPUTE_BIT)) family++;
    float priority = 1;
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueFamilyIndex = family,
                                     .queueCount = 1, .pQueuePriorities = &priority};
    const char *enabled[4] = {VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME};
    uint32_t n = 1;
    if (has_robustness2) enabled[n++] = VK_EXT_ROBUSTNESS_2_EXTENSION_NAME;
    if (has_cooperative) enabled[n++] = VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME;
    VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .pNext = &features, .queueCreateInfoCount = 1,
                               .pQueueCreateInfos = &queue, .enabledExtensionCount = n, .ppEnabledExtensionNames = enabled};
    VkDevice device;
    check(vkCreateDevice(physical, &info, NULL, &device), "vkCreateDevice");
    return device;
}

// The layout that src/backend/wgpu/pipelines.rs gives every kernel: group 0 has storage buffers, group 1 `params` at a
// dynamic offset, and `batch`.
static VkPipelineLayout make_layout(VkDevice device, uint32_t buffers, VkDescriptorSetLayout sets[2]) {
    LOAD(vkCreateDescriptorSetLayout);
    LOAD(vkCreatePipelineLayout);
    VkDescriptorSetLayoutBinding bindings[2][MAX_BUFFERS];
    for (uint32_t i = 0; i < buffers; i++)
        bindings[0][i] = (VkDescriptorSetLayoutBinding){.binding = i, .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                                        .descriptorCount = 1, .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
    for (uint32_t i = 0; i < 2; i++)
        bindings[1][i] = (VkDescriptorSetLayoutBinding){
            .binding = i, .descriptorCount = 1, .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT,
            .descriptorType = i == 0 ? VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER_DYNAMIC : VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER};
    for (int set = 0; set < 2; set++) {
        VkDescriptorSetLayoutCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
                                                .bindingCount = set == 0 ? buffers : 2, .pBindings = bindings[set]};
        check(vkCreateDescriptorSetLayout(device, &info, NULL, &sets[set]), "vkCreateDescriptorSetLayout");
    }
    VkPipelineLayoutCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO, .setLayoutCount = 2, .pSetLayouts = sets};
    VkPipelineLayout layout;
    check(vkCreatePipelineLayout(device, &info, NULL, &layout), "vkCreatePipelineLayout");
    return layout;
}

static VkShaderModule make_module(VkDevice device, const char *path) {
    LOAD(vkCreateShaderModule);
    FILE *file = fopen(path, "rb");
    if (!file) fail(path, 0);
    fseek(file, 0, SEEK_END);
    long bytes = ftell(file);
    rewind(file);
    uint32_t *words = malloc(bytes);
    if (!words || fread(words, 1, bytes, file) != (size_t)bytes) fail(path, 1);
    fclose(file);
    VkShaderModuleCreateInfo info = {.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = bytes, .pCode = words};
    VkShaderModule module;
    check(vkCreateShaderModule(device, &info, NULL, &module), "vkCreateShaderModule");
    free(words);
    return module;
}

static void print_statistics(VkDevice device, VkPipeline pipeline) {
    LOAD(vkGetPipelineExecutablePropertiesKHR);
    LOAD(vkGetPipelineExecutableStatisticsKHR);
    // A compute pipeline is one executable.
    VkPipelineInfoKHR info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, .pipeline = pipeline};
    VkPipelineExecutablePropertiesKHR executable = {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_PROPERTIES_KHR};
    uint32_t count = 1;
    VkResult result = vkGetPipelineExecutablePropertiesKHR(device, &info, &count, &executable);
    if ((result != VK_SUCCESS && result != VK_INCOMPLETE) || count != 1) fail("a pipeline has no executable", result);
    printf("{\"subgroup\":%u,\"statistics\":{", executable.subgroupSize);
    VkPipelineExecutableInfoKHR which = {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, .pipeline = pipeline};
    static VkPipelineExecutableStatisticKHR all[MAX_STATISTICS];
    for (int i = 0; i < MAX_STATISTICS; i++) all[i] = (VkPipelineExecutableStatisticKHR){.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR};
    count = MAX_STATISTICS;
    check(vkGetPipelineExecutableStatisticsKHR(device, &which, &count, all), "vkGetPipelineExecutableStatisticsKHR");
    for (uint32_t i = 0; i < count; i++) {
        if (i) putchar(',');
        json_string(all[i].name);
        switch (all[i].format) {
        case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_BOOL32_KHR: printf(":%u", all[i].value.b32); break;
        case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_INT64_KHR: printf(":%lld", (long long)all[i].value.i64); break;
        case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_UINT64_KHR: printf(":%llu", (unsigned long long)all[i].value.u64); break;
        default: printf(":%.6g", all[i].value.f64);
        }
    }
    printf("}}\n");
}

// Compiles one pipeline as wgpu does, and prints its statistics.
static void compile(VkDevice device, uint32_t buffers, const char *entry, const char *path, int varying_subgroups) {
    LOAD(vkDestroyDescriptorSetLayout);
    LOAD(vkDestroyPipelineLayout);
    LOAD(vkDestroyShaderModule);
    LOAD(vkCreateComputePipelines);
    LOAD(vkDestroyPipeline);
    VkDescriptorSetLayout sets[2];
    VkPipelineLayout layout = make_layout(device, buffers, sets);
    VkShaderModule module = make_module(device, path);
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .flags = VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .flags = varying_subgroups ? VK_PIPELINE_SHADER_STAGE_CREATE_ALLOW_VARYING_SUBGROUP_SIZE_BIT : 0,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT, .module = module, .pName = entry},
        .layout = layout};
    VkPipeline pipeline;
    VkResult result = vkCreateComputePipelines(device, VK_NULL_HANDLE, 1, &info, NULL, &pipeline);
    if (result == VK_SUCCESS) {
        print_statistics(device, pipeline);
        vkDestroyPipeline(device, pipeline, NULL);
    } else {
        printf("{\"error\":\"vkCreateComputePipelines gives %d\"}\n", result);
    }
    fflush(stdout);
    vkDestroyShaderModule(device, module, NULL);
    vkDestroyPipelineLayout(device, layout, NULL);
    for (int set = 0; set < 2; set++) vkDestroyDescriptorSetLayout(device, sets[set], NULL);
}

int main(int argc, char **argv) {
    int wants_features = argc == 2 && !strcmp(argv[1], "features");
    if (!wants_features && !(argc == 3 && !strcmp(argv[1], "compile"))) fail("usage: vkstats features | vkstats compile 0|1", argc);
    open_instance();
    query_device();
    if (wants_features) {
        print_features();
        return 0;
    }
    VkDevice device = open_device();
    uint32_t buffers;
    char entry[64], path[1024];
    while (scanf("%u %63s %1023s", &buffers, entry, path) == 3) {
        if (buffers > MAX_BUFFERS) fail("too many storage buffers", buffers);
        compile(device, buffers, entry, path, argv[2][0] == '1');
    }
    return 0;
}
